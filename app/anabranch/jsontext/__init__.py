"""JSON as text: proven, taken apart, projected, shaped, merged, without building what no rule reads. Pure."""
