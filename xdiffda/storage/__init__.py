"""Storage: files, remote stores, downloads, locks, tasks. This room knows no meteorology."""
