"""The second stage: training a ranking model on what the towers find, and measuring both."""
