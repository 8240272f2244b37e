"""What training minimises: softmax, losses, negatives, corrections."""
