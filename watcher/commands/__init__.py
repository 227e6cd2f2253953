"""What each word of the command line does. `run` stays; the others look once, say what they saw, and end."""
