"""What a person looks at: the page, videos, sheets, and actions as drawings.

Drawn from arrays and finished measures; nothing is measured here.
"""
