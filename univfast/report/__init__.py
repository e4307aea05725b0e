"""What is said of a result, and what is shown.

===============  ===========================================================
``verdict``      what the counts mean, in words
``files``        the files of a result, written whole, and drawn again
``tables``       CSV that reads back as it was, and holds no formula
``parquet``      large ones as Parquet too
``weights``      the table of what weights say of neurons
``saved``        a result read back from its files
``saved_parts``  what stands beside its table: partners, single models, contexts
``summaries``    what a summary holds, and what is none
``html``         ``report.html``
``facts``        its settings and counts, in words
``live``         its tiles, charts and table of neurons
``still``        what stands in for these without JavaScript, and on paper
``contexts``     its section on what neurons do
``definitions``  its words, and what they mean
``beside``       several results on one page, on the same axes
``page``         a web page that needs no other file, and what it is made of
``web``          what runs and is seen in it: scripts, style, data
``plots``        the pictures that a result has
``pictures``     each picture, and what they share
===============  ===========================================================
"""
