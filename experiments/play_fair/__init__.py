"""The figures of Price & Damen (2020), Play Fair, measured again on data at hand or one's own."""
