"""What others do, as their users write it; re-created from descriptions."""
