"""Secrets: sealing them, making them, checking them, and keeping them out of sight.

Pure and without storage: what is kept, and where, is the store's part. Imports the contract and the errors only.
"""
