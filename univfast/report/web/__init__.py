"""What runs and what is seen in ``report.html``, beside its words.

==============  ==============================================================
``arrays``      arrays as base64, which a page reads without parsing numbers
``data``        what the charts and the table of a result are drawn from
``matches``     where matches are: tables of layers of A by layers of a model
``assets``      style, scripts and template, and the policy that they run under
==============  ==============================================================

``page.html`` is the template, ``report.css`` the style. ``values.js`` unpacks the data,
``charts.js`` draws by BokehJS, ``page.js`` lets charts, slider and table of a result follow each
other, and ``beside.js`` draws several results on the same axes. All of it stands in the page.
"""
