"""From text to token ids, masks and batches."""
