"""The web page: protect photos, audit sets of photos, compare audits; on this machine, nothing uploaded is kept.

Only ``page`` imports Gradio. What it shows is computed in files that know nothing of it.
"""
