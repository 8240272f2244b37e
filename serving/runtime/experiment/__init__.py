"""Two versions side by side: which users each one answers, and what it answered them."""
