"""The partitioned graph as one page for a browser: `engine coverage MODEL --html OUT.html`."""
