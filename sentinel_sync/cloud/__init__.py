"""The way to the backend: one client, what each answer means to it, uploads and downloads that survive a cut.

The doors are `client.CloudAPIClient` and `offline_manager.OfflineManager`.
It never knows what a trip, a recording or a model is, and never sends the credential to another origin.
"""
