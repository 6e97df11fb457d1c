"""mIoU on whole images at label resolution."""
