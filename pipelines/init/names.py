"""What a column's name says about its role, in the languages and conventions that files use."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Words that name the thing itself. A word of another script may be anywhere in a name, because
# such scripts have no spaces between words.
USER = """user users customer customers client clients member visitor buyer shopper purchaser
consumer reviewer rater subscriber listener viewer reader guest patient student learner player
person people traveler passenger borrower uid cust
kunde kunden nutzer benutzer mitglied kaeufer käufer besucher leser
utilisateur usager acheteur abonné usuario usuarios cliente clientes comprador utente acquirente
klant gebruiker klient użytkownik
用户 客户 会员 買家 买家 顾客 顧客 读者 ユーザー 会員 利用者 고객 사용자
пользователь клиент покупатель"""
WEAK_USER = """account household session device cookie card login profile konto sitzung haushalt
compte cuenta conta visit 账号 帐号 会话"""
ITEM = """item items product products article articles sku asin isbn ean upc gtin movie movies film
films track song songs video videos business book books recipe hotel restaurant game games app
course job listing property venue poi show podcast episode news content document offer
dish beer wine good stock artikel produkt ware buch lied spiel
produit livre jeu producto productos articulo artículo pelicula película libro prodotto articolo
produto artigo filme livro towar książka
商品 物品 产品 產品 电影 图书 歌曲 视频 作品 品目 아이템 상품 товар фильм книга продукт"""
WEAK_ITEM = """artist album author brand seller shop store category place location page url title
deal ad campaign material part 店铺 品牌"""
ORDER = """order orders invoice transaction basket receipt line row index event review bestellung
bestell rechnung beleg auftrag commande facture pedido factura ordine fattura
订单 订单号 注文 заказ"""
MARKER = """id ids no nr num number nummer numer numero número code key ref uuid guid hash
编号 代码 番号 номер код"""
ATTRIBUTE = """name names title category categories type kind group class price cost brand country
city state region zip postal gender sex age birth email mail phone mobile address count color
colour size desc description text comment status segment level tier score rating stars year month
day genre genres tag tags image img picture photo flag lat lon latitude longitude date time since
joined created salary income language currency preis kategorie gruppe farbe marke stadt land alter
geschlecht nom prix catégorie categorie ville pays nombre precio categoria ciudad 名称 名字 价格
类别 性别 年龄 城市 カテゴリ 価格"""
TIME = """time times timestamp date datetime day ts dt dat when at created ordered purchased bought
rated unixtime epoch clock datum zeit uhrzeit zeitpunkt bestelldatum kaufdatum heure fecha hora
data quando 时间 日期 時間 日時 日付 날짜 дата время"""
RATING = """rating ratings stars star score grade overall vote bewertung sterne puntuacion
calificacion voto valutazione 评分 評価 평점 оценка рейтинг"""
COUNT = """cnt num nb tx quantity qty count counts plays playcount play clicks views purchases units
listens times frequency freq hits watches minutes seconds hours menge anzahl stück quantité
quantite cantidad
quantità quantita quantidade ilość 数量 次数 個数 количество"""
BINARY = """click clicked like liked bought purchase purchased conversion converted label target
watched read"""
EVENT = """event action behavior behaviour interaction activity ereignis aktion événement evenement
acción accion evento azione 行为 行動 событие действие"""
MONEY = """price amount total revenue sales sum cost paid preis betrag summe umsatz prix
montant precio importe total prezzo importo preço 价格 金额 価格 цена сумма"""
AVAILABLE = """available availability instock lieferbar verfügbar disponible disponibile 库存 在庫
наличие"""
TITLE = (
    """title name titel titre nombre título titulo titolo nom bezeichnung 名称 标题 名前 название"""
)
PERSONAL = """email mail phone mobile telephone fax address street firstname lastname surname
fullname birth birthday birthdate ssn iban ip passport password telefon handy adresse strasse
straße vorname nachname geburtsdatum telephone téléphone adresse prénom correo teléfono dirección
apellido 电话 手机 邮箱 地址 姓名 電話 住所"""


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text, in lower case."""
    return frozenset(unicodedata.normalize("NFKC", text).lower().split())


ROLES = {
    "user": word_set(USER),
    "weak user": word_set(WEAK_USER),
    "item": word_set(ITEM),
    "weak item": word_set(WEAK_ITEM),
    "order": word_set(ORDER),
    "time": word_set(TIME),
    "rating": word_set(RATING),
    "count": word_set(COUNT),
    "binary": word_set(BINARY),
    "event": word_set(EVENT),
    "money": word_set(MONEY),
    "available": word_set(AVAILABLE),
    "title": word_set(TITLE),
    "personal": word_set(PERSONAL),
}
MARKERS, ATTRIBUTES = word_set(MARKER), word_set(ATTRIBUTE)
KNOWN = frozenset().union(*ROLES.values(), MARKERS, ATTRIBUTES)
SHORTEST_PART = 3
"""Letters that a word must have to be found inside a longer one, such as user in userid."""


@lru_cache(maxsize=4096)
def tokens(name: str) -> tuple[str, ...]:
    """Split a column's name into words in lower case.

    Examples
    --------
    >>> tokens("customerID"), tokens("Kundennummer"), tokens("movie.id"), tokens("商品编号")
    (('customer', 'id'), ('kunden', 'nummer'), ('movie', 'id'), ('商品', '编号'))
    """
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text).lower()
    parts = re.findall(r"[^\W\d_]+", text)
    return tuple(word for part in parts for word in _compound(part))


def _compound(part: str) -> tuple[str, ...]:
    """Split a word that is made of two known ones, such as itemid."""
    if part in KNOWN:
        return (part,)
    shortest = 2 if not part.isascii() else SHORTEST_PART
    for end in range(len(part) - 1, shortest - 1, -1):
        start, rest = part[:end], part[end:]
        if start in KNOWN and (rest in KNOWN or rest.removeprefix("s") in KNOWN):
            return (start, rest if rest in KNOWN else rest.removeprefix("s"))
    return (part,)


def has_role(name: str, role: str) -> bool:
    """Whether a word of the name belongs to the role, a key of `ROLES`."""
    return any(token in ROLES[role] for token in tokens(name))


def id_evidence(name: str, role: str) -> float:
    """Say how surely a name is that of the ids of users or items.

    Parameters
    ----------
    name : str
        The column's name.
    role : {"user", "item"}

    Returns
    -------
    float
        0: nothing in the name says so, or it names an attribute, such as user_age. 1 to 3.5: the
        higher, the surer.

    Examples
    --------
    >>> id_evidence("customer_id", "user"), id_evidence("customer", "user")
    (3.5, 3.0)
    >>> id_evidence("customer_age", "user"), id_evidence("session_id", "user")
    (0.0, 2.0)
    """
    found = tokens(name)
    strong = [token for token in found if token in ROLES[role]]
    weak = [token for token in found if token in ROLES[f"weak {role}"]]
    other = "item" if role == "user" else "user"
    if (not strong and not weak) or any(token in ROLES[other] for token in found):
        return 0.0
    if strong:
        weak = [token for token in weak if token not in ATTRIBUTES]
    rest = [token for token in found if token not in strong and token not in weak]
    if any(token in ROLES["order"] or token in ATTRIBUTES for token in rest):
        return 0.0
    if not strong and any(token in ATTRIBUTES for token in weak) and len(found) == 1:
        return 0.5  # `title` or `category` alone are mostly attributes of something else
    marked = any(token in MARKERS for token in rest)
    unknown = sum(token not in MARKERS for token in rest)
    return (3.0 if strong else 1.5) + (0.5 if marked else 0.0) - 0.5 * min(unknown, 2)
