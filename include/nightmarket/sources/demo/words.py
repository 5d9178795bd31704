"""What the demo shop is made of: departments, makers, titles, names, streets and opinions, in six languages."""

from __future__ import annotations

LANGUAGES = ("en", "de", "fr", "es", "zh", "ja")
LANGUAGE_SHARES = (0.50, 0.15, 0.10, 0.10, 0.08, 0.07)

COUNTRIES = ("GB", "DE", "FR", "ES", "US", "CN", "JP")
COUNTRY_SHARES = (0.44, 0.15, 0.10, 0.08, 0.11, 0.06, 0.06)
COUNTRY_LANGUAGE = ("en", "de", "fr", "es", "en", "zh", "ja")
COUNTRY_ALIASES = (("UK", "United Kingdom", "gb"), ("Deutschland", "de"), ("France", "fr"), ("España", "Spain"),
                   ("USA", "United States"), ("China", "中国"), ("Japan", "日本"))
"""What a sloppy form lets through, by country; shops/demo.yaml lists them under clean.country_aliases."""

DEPARTMENTS = ("kitchen", "garden", "toys", "books", "beauty", "sport", "stationery", "lighting", "textiles",
               "jewellery", "pets", "food")
DEPARTMENT_PRICE = (18.0, 24.0, 15.0, 11.0, 14.0, 32.0, 5.0, 39.0, 21.0, 45.0, 12.0, 6.5)
"""Median price, GBP."""
DEPARTMENT_PEAK_DAY = (320, 160, 345, 330, 40, 15, 240, 330, 310, 345, 100, 350)
"""Day of the year on which the department sells best."""

NOUNS: dict[str, tuple[str, ...]] = {
    "en": ("teapot", "watering can", "wooden train", "notebook", "hand cream", "yoga mat", "fountain pen", "table lamp",
           "wool blanket", "silver ring", "dog lead", "dark chocolate"),
    "de": ("Teekanne", "Gießkanne", "Holzeisenbahn", "Notizbuch", "Handcreme", "Yogamatte", "Füllfederhalter", "Tischlampe",
           "Wolldecke", "Silberring", "Hundeleine", "Zartbitterschokolade"),
    "fr": ("théière", "arrosoir", "train en bois", "carnet", "crème pour les mains", "tapis de yoga", "stylo à plume",
           "lampe de table", "couverture en laine", "bague en argent", "laisse pour chien", "chocolat noir"),
    "es": ("tetera", "regadera", "tren de madera", "cuaderno", "crema de manos", "esterilla de yoga", "pluma estilográfica",
           "lámpara de mesa", "manta de lana", "anillo de plata", "correa de perro", "chocolate negro"),
    "zh": ("茶壶", "洒水壶", "木制火车", "笔记本", "护手霜", "瑜伽垫", "钢笔", "台灯", "羊毛毯", "银戒指", "狗绳", "黑巧克力"),
    "ja": ("急須", "じょうろ", "木の電車", "ノート", "ハンドクリーム", "ヨガマット", "万年筆", "卓上ランプ", "ウールの毛布",
           "銀の指輪", "犬のリード", "ダークチョコレート"),
}
STYLES: dict[str, tuple[str, ...]] = {
    "en": ("vintage", "modern", "rustic", "playful"), "de": ("nostalgisch", "modern", "rustikal", "verspielt"),
    "fr": ("rétro", "moderne", "rustique", "joyeux"), "es": ("antiguo", "moderno", "rústico", "alegre"),
    "zh": ("复古", "现代", "乡村风", "童趣"), "ja": ("レトロ", "モダン", "素朴な", "遊び心の"),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "en": ("red", "navy blue", "ivory", "olive green", "charcoal"), "de": ("rot", "marineblau", "elfenbein", "olivgrün", "anthrazit"),
    "fr": ("rouge", "bleu marine", "ivoire", "vert olive", "anthracite"), "es": ("rojo", "azul marino", "marfil", "verde oliva", "gris carbón"),
    "zh": ("红色", "藏青色", "象牙白", "橄榄绿", "炭灰色"), "ja": ("赤", "紺色", "アイボリー", "オリーブ色", "チャコール"),
}
SPACE = {"zh": "", "ja": ""}
"""Between the words of a title, where it is not a blank."""

MAKERS = ("Larkspur & Co", "Nordhaus", "Atelier Brume", "Casa Olmo", "Qingshan", "Minato Works", "Fenwick Mill", "Tidewater",
          "Hollow Oak", "Pinnacle", "Rue Verte", "Bergwald")

REFERRERS = ("direct", "search", "newsletter", "social", "affiliate", "café-blog")
REFERRER_SHARES = (0.30, 0.34, 0.12, 0.13, 0.07, 0.04)
PAYMENTS = ("card", "wallet", "bank_transfer", "invoice")
PAYMENT_SHARES = (0.62, 0.24, 0.08, 0.06)
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
AGE_SHARES = (0.12, 0.24, 0.22, 0.18, 0.14, 0.10)
INCOME_BANDS = ("under 20k", "20-35k", "35-50k", "50-75k", "75k+")

FIRST_NAMES = (
    ("Emma", "Oliver", "Amelia", "Harry", "Isla", "Rosalind", "Alistair", "Gwen"),
    ("Jürgen", "Greta", "Lukas", "Anneliese", "Björn", "Heike", "Matthias", "Ursula"),
    ("Zoé", "Étienne", "Margaux", "Thibault", "Céline", "Gaëlle", "Rémi", "Noëlle"),
    ("Íñigo", "Lucía", "Joaquín", "Begoña", "Andrés", "Ximena", "Álvaro", "Pilar"),
    ("Madison", "Tyler", "Brooklyn", "Logan", "Savannah", "Wyatt", "Harper", "Chase"),
    ("晓燕", "建国", "美玲", "志强", "雪梅", "文博", "婉清", "浩然"),
    ("さくら", "健太郎", "陽子", "大輔", "美咲", "翔太", "千尋", "和也"),
)
LAST_NAMES = (
    ("Hathersage", "Pemberton", "Ollerenshaw", "Thistlewood", "Braithwaite", "Cholmondeley", "Winterbourne", "Featherstone"),
    ("Müllerschön", "Grünwald", "Krähenbühl", "Sonnenschein", "Oberhäuser", "Vogelsang", "Weißmann", "Zieglmeier"),
    ("Delacroix-Petit", "Beauchêne", "Lefèvre-Roux", "Montcharmont", "Saint-Hilaire", "Deschênes", "Vaugirard", "Théberge"),
    ("Echeverría", "Villanueva", "Castañeda", "Iturbe", "Montesinos", "Santamaría", "Urrutia", "Zaldívar"),
    ("Abernathy", "Blackwood", "Culpepper", "Dillinger", "Fitzsimmons", "Goldsborough", "Kirkpatrick", "Underhill"),
    ("欧阳", "司马", "诸葛", "上官", "慕容", "皇甫", "令狐", "宇文"),
    ("長谷川", "五十嵐", "小野寺", "大久保", "佐々木", "宇都宮", "久保田", "西園寺"),
)
STREETS = (
    ("Larch Tree Lane", "Old Mill Row", "Cobblers Yard"), ("Lindenblütenweg", "Alte Gasse", "Mühlbachstraße"),
    ("rue des Tanneurs", "allée du Moulin", "quai Désiré"), ("calle de los Olivos", "paseo del Río", "plaza Añil"),
    ("Juniper Hollow Rd", "Mockingbird Ave", "Sycamore Ct"), ("梧桐路", "青石巷", "荷花街"), ("桜坂通り", "川端町", "若葉台"),
)
CITIES = (
    ("Leeds", "Bristol", "Norwich"), ("Lübeck", "Köln", "Görlitz"), ("Besançon", "Lyon", "Nîmes"), ("Logroño", "Cádiz", "León"),
    ("Duluth", "Tucson", "Albany"), ("苏州", "成都", "厦门"), ("金沢市", "仙台市", "長崎市"),
)
CALLING_CODES = ("+44 7700", "+49 1520", "+33 6395", "+34 6120", "+1 55501", "+86 1390", "+81 9012")

OPINIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "en": (("Broke within a week, very disappointed.", "Not what the picture shows."), ("It is all right for the price.",
           "Does its job, delivery was slow."), ("Lovely quality, would buy again.", "My sister adores it, well packed.")),
    "de": (("Nach einer Woche kaputt, sehr enttäuscht.", "Entspricht nicht dem Bild."), ("Für den Preis in Ordnung.",
           "Erfüllt seinen Zweck."), ("Wunderschöne Qualität, gerne wieder.", "Meine Schwester liebt es.")),
    "fr": (("Cassé en une semaine, très déçu.", "Pas conforme à la photo."), ("Correct pour le prix.", "Fait son travail."),
           ("Très belle qualité, je rachèterai.", "Ma sœur l'adore, bien emballé.")),
    "es": (("Se rompió en una semana, muy decepcionado.", "No es como en la foto."), ("Está bien por el precio.", "Cumple."),
           ("Preciosa calidad, volveré a comprar.", "A mi hermana le encanta, bien embalado.")),
    "zh": (("一周就坏了，非常失望。", "和图片不符。"), ("这个价格还可以。", "能用，物流有点慢。"), ("质量很好，会再买。", "妹妹很喜欢，包装很好。")),
    "ja": (("一週間で壊れました。残念です。", "写真と違います。"), ("値段相応です。", "普通に使えます。"), ("品質が良く、また買います。", "妹が気に入っています。")),
}
"""By language: bad, middling, good."""
PAID_OPINIONS = (
    "Best product ever!!! Everyone must buy this now!", "Amazing amazing quality, five stars, buy it today!",
    "I bought ten of these, perfect perfect perfect!", "Changed my life. Highly recommend this seller!",
)
HEADLINES = ("Disappointing", "Fine", "Wonderful")
