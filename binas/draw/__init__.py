"""Cells as pictures: svg, png, pdf and dot files, images for logs, heat maps of architecture weights."""
