class TestCreateProduct:
    def test_returns_the_product(self, client, make):
        product = make(name="Blue Mug")

        answer = client.get(f"/api/v1/products/{product['id']}")

        assert answer.status_code == 200
        assert answer.json["slug"] == "blue-mug"
