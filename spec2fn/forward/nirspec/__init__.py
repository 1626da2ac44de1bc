"""The synthetic NIRSpec."""
