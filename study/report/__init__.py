"""The report of a study: one HTML file with the answer, the pictures, the data and how to reproduce them."""
