"""What users do while a version answers: events, where they are kept, and what they change."""
