"""The way to the backend: one client, its attempts, downloads, and what each answer means to it."""
