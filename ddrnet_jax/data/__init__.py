"""From files to batches: numpy, cv2 and grain; nothing here imports jax or needs a device."""
