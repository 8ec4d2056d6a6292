"""Looks for rules that load and are still not what their author means."""
