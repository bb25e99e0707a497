"""What `import wsi_seg` offers in Python: as short as the command line."""
