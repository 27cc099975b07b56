//! The Flight methods as tonic's generated trait has them: each begins its call and hands over to the
//! file of its name.

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::Stream;
use lakebed_service::Service;
use tonic::{Request, Response, Status, Streaming};

use crate::request::{Call, RequestId};
use crate::{
    do_action, do_get, do_put, get_flight_info, get_schema, handshake, list_actions, list_flights,
    poll_flight_info, sql,
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Lakebed's own Flight service.
pub(crate) struct Flight {
    pub(crate) service: Arc<Service>,
}

impl Flight {
    async fn call<T>(&self, request: &Request<T>) -> Result<Call, Status> {
        Call::begin(&self.service, request.metadata(), request.extensions()).await
    }
}

fn once<T: Send + 'static>(answer: T) -> Answers<T> {
    Box::pin(futures::stream::iter([Ok(answer)]))
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let (metadata, extensions, messages) = request.into_parts();
        let id = extensions.get::<RequestId>().map(ToString::to_string).unwrap_or_default();
        let answer = handshake::handshake(&self.service, &metadata, &id, messages).await?;
        Ok(answer.map(once))
    }

    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        let call = self.call(&request).await?;
        let service = Arc::clone(&self.service);
        let flights = list_flights::list_flights(service, call.clone(), request.get_ref()).await;
        Ok(Response::new(Box::pin(flights.map_err(|error| call.status(&error))?)))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let call = self.call(&request).await?;
        let descriptor = request.into_inner();
        let info = get_flight_info::get_flight_info(&self.service, &call, descriptor).await;
        info.map(Response::new).map_err(|error| call.status(&error))
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let call = self.call(&request).await?;
        let descriptor = request.into_inner();
        let info = poll_flight_info::poll_flight_info(&self.service, &call, descriptor).await;
        info.map(Response::new).map_err(|error| call.status(&error))
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let call = self.call(&request).await?;
        let schema = get_schema::get_schema(&self.service, &call, request.get_ref()).await;
        schema.map(Response::new).map_err(|error| call.status(&error))
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let call = self.call(&request).await?;
        let service = Arc::clone(&self.service);
        let messages = do_get::do_get(service, call, request.into_inner()).await?;
        Ok(Response::new(Box::pin(messages)))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let call = self.call(&request).await?;
        let service = Arc::clone(&self.service);
        let (_, extensions, messages) = request.into_parts();
        let result = do_put::do_put(service, call, &extensions, messages).await?;
        Ok(Response::new(once(result)))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let call = self.call(&request).await?;
        let service = Arc::clone(&self.service);
        let (_, extensions, messages) = request.into_parts();
        let answers = sql::do_exchange(service, call, &extensions, messages).await?;
        Ok(Response::new(Box::pin(answers)))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let call = self.call(&request).await?;
        let bodies = do_action::do_action(&self.service, &call, request.get_ref()).await;
        let bodies = bodies.map_err(|error| call.status(&error))?.into_iter();
        let results = bodies.map(|body| Ok(arrow_flight::Result { body }));
        Ok(Response::new(Box::pin(futures::stream::iter(results))))
    }

    async fn list_actions(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        self.call(&request).await?;
        let actions = list_actions::list_actions().into_iter().map(Ok);
        Ok(Response::new(Box::pin(futures::stream::iter(actions))))
    }
}
