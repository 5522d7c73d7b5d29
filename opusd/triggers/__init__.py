"""What makes jobs by itself. Must not know how a job is admitted: that is asked of the entrance."""
