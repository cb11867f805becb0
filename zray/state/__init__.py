"""The state of a cluster as rows: one table of kinds, for `zray list`, for `zray.util.state`, and for other views."""
