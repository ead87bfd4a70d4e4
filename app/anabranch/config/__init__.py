"""The gateway document as the operator wrote it: strict models, and a loader that reports every problem with its position."""
