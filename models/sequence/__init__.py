"""Query towers of the user's latest items in their order, trained to predict the next item."""
