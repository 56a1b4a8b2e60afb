"""Arrow files: looked through before they are relied on, mapped by worker processes."""
