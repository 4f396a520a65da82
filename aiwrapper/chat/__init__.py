"""A chat on a web page, with a Stop button that keeps its promise."""
