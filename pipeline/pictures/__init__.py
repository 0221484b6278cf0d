"""pictures: the bytes of a picture to pixels, one decoder for everyone. The image check and the trainer see the same.

body --identify--> size admitted? --decode--> pixels as stored --profile, orientation--> upright sRGB
          |               |            |
          `---------------+------------+--> Rejected(reason, detail)

decode.py       decode(), the flow above; decode_upright() for those who want the end of it
identify.py     format and size from the first bytes
jpeg.py         JPEG, by libjpeg-turbo, scaled while it decodes
still.py        every other format, by Pillow, on white
png.py, gif.py, webp.py   what their chunks and blocks say, before Pillow sees them
colour.py       profiles and CMYK to sRGB
orientation.py  EXIF, and turning upright
"""
