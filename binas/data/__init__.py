"""Images: datasets, deterministic splits, batches on the training device, augmentation, contact sheets."""
