"""What happens when the power goes, or the disk fails, at any one call to the file system."""
