"""Text from outside, made by somebody who means harm, at every door through which it comes in."""
