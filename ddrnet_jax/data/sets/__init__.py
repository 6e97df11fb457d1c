"""their classes, colours, label values, and where their files lie."""
