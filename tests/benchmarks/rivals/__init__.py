"""Other designs for the same work, written as they would be, to be measured in the same way."""
