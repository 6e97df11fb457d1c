"""Why is my mIoU low? The known causes, looked for in a config, its data and a checkpoint."""
