"""What watches events and tells others: notifications."""
