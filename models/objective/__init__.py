"""What training minimises: losses, their negatives and corrections, and additional tasks."""
