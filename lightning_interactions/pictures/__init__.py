"""A sample and its strongest interactions, for people to see: chosen, in words, as a figure, as HTML."""
