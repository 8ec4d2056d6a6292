"""From the text of a rules file to its syntax tree."""
