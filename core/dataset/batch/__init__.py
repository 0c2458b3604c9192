"""A run through a provider's Batch API: files handed in, watched, collected."""
