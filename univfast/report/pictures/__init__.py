"""The pictures that `univfast.report.plots` offers, a file each, and what they share."""
