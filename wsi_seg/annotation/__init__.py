"""Reference labels of a slide, from label images, GeoJSON or ASAP XML, at any resolution. Knows no training."""
