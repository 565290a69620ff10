"""Storage: files, remote stores, downloads, locks and tasks. This room knows no meteorology.

Whatever is written becomes visible only when it is complete, so that an interrupted run resumes.
"""
