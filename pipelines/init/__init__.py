"""`twotower init`: look at files of interactions and write a configuration for them."""
