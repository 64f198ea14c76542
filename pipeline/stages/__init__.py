"""One module a command; stages never import each other, they meet in files."""
