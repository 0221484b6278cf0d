"""check_image: the bytes of a body in, a picture fit to store or a reason out.

body --pictures.decode, within limits on the header--> pixels --resize--> upright sRGB --hash, encode--> Picture
          `--> Rejected(reason, detail)

config.py    ImageConfig, Picture
check.py     check_image(), the flow above; decoding is `pipeline.pictures`, which the trainer shares
geometry.py  resize modes
area.py      averaging areas; area_kernel.py has its loops
facts.py     EXIF and the perceptual hash
isolate.py   IsolatedChecker: decoding in a process that may die
worker.py    that process
"""
