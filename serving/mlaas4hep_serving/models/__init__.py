"""Models on disk and in memory: versions, SavedModels, batches, and which version answers."""
