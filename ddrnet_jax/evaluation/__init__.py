"""mIoU on whole images at label resolution; top-1 and top-5 accuracy of a classifier."""
