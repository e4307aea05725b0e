"""The pictures that `univfast.plots` offers, a file each, and what they share."""
